"""What learning together gains and privacy costs: one cohort, trained in every way.

``setting`` says what is compared, ``arms`` trains one seed of it, ``seeds`` repeats that and pairs
the figures, ``page`` shows them.
"""
