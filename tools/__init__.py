"""Programs for the people who maintain this project; nothing here is installed with it."""
