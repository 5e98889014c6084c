"""Evaluations of knowledge: questions asked of the real engine under several conditions, and what the replies say."""
