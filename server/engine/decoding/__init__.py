"""From logits to text: sampling, penalties, stop strings, detokenising. Knows no pages and no scheduling."""
