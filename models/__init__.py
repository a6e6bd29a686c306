"""Networks, built from plain numbers; their averages; and weights under the 2021 release's names."""
