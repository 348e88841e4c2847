"""What looks at content: the checks that an answer is held to. Pure: no file, no network."""
