"""The market's arithmetic: money, prices, predictions, offers, quotes. Pure functions and values."""
