"""Mathematics that codecs share."""
