"""Tables of recordings made from what a hospital has: REDCap exports and BIDS trees."""
