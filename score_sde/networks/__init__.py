"""Networks built from plain numbers, their averages, and the 2021 release's weights."""
