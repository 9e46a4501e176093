"""Pages for people: the report, the live view, the labelling site, and the local server that shows them."""
