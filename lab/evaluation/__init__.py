"""How replies are judged, and the baselines φ is compared with."""
