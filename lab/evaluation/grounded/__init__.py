"""How `grounded` is fitted and judged: cases, what they tell, the regressions, and what refusing by them is worth."""
