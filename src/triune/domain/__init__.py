"""The nouns of Triune. Standard library only; imports nothing of the rest."""
