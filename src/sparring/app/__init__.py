"""What several commands do: agents and episodes from options, episodes in files, training runs, the console."""
