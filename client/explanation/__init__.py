"""What moved one subject's score: at the site alone, on a page that stays there."""
