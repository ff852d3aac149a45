"""The HTML of pages and of cards in notebooks, made on the server from plain values."""
