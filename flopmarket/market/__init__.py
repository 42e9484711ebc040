"""The market's arithmetic, pure: money, prices, predictions, offers, quotes."""
