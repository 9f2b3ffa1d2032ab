"""What is wanted: sites and guests as values, and where they lie."""
