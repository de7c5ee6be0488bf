"""The demo: wrist-sensor recordings of real people, streamed, joined by capture time, predicted and scored."""
