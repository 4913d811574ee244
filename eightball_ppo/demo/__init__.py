"""The demo: ask trained policies in the browser. `session` answers, `views` renders, `app` is the page."""
