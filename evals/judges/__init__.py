"""An edit comes in, a judgement goes out: by a vision-language model or measured from detections. Knows no suite."""
