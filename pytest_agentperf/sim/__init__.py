"""An inference server that needs no accelerator: engine, HTTP face and launcher."""
