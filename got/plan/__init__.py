"""Text with boxes: a chain comes in as text, records and layout masks go out. Knows no tensor and no model."""
