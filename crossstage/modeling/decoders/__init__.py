"""From queries and memory to the predictions of every stage."""
