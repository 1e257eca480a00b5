"""Withdrawn consent: exclude, erase, certify."""
