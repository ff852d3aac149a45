"""Datasets for object detection: images with boxes, as COCO, YOLO and Pascal VOC have them."""
