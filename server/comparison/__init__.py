"""Registered models side by side: what their reports say together, and what they do not.

``contenders`` picks models and reads what is known of them, ``withholding`` decides what may not be
shown side by side, ``differences`` subtracts, ``limits`` says what may not be concluded,
``side_by_side`` puts it together, ``page`` shows it. Nothing is asked of any site: a comparison is
made of figures that are out already, and spends no privacy.
"""
