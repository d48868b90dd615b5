"""The technologies that run instances. Only `registry` knows them all."""
