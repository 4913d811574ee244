"""The demo: ask trained policies in the browser. `ball` answers, `views` shows it, `app` is the page."""
