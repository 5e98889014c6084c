"""The live knowledge store. Imports neither `kan` nor `server`."""
