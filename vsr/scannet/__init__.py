"""Raw ScanNet scans: files -> scenes, videos and questions."""
