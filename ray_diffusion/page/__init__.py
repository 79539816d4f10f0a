"""What reports for people are made of: self-contained HTML, written by pure functions."""
