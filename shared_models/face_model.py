"""The face landmarker bundle that every site of every study uses, by name and hash.

MediaPipe's Face Landmarker, float16 version 1 (Apache-2.0).
"""

FACE_MODEL_FILE = "face_landmarker.task"
FACE_MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
