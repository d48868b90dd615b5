"""What Triune does with engines and store. Knows engines only through `engines.base`."""
