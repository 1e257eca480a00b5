"""What a site can show of itself: what left it, what was spent, whether all of it is whole."""
