"""What the people of a site are asked, shown in plain words, and what they approved."""
