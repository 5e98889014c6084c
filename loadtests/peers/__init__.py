"""KalmaGrove beside other servers of the same model: the same facts, the same questions, asked in turn."""
