"""What all parties must agree on byte for byte: features, networks, messages, tallies, study."""
