"""The KAN model: attention over knowledge pages. Imports neither `kb` nor `server`."""
