"""The processor that everything here computes on: its cores, its threads, and products laid out for it."""
