"""The effects of a file, told and shown: a page with a picture of each."""
