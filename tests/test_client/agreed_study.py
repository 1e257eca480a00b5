"""The shortest study file that a site can agree to."""

COORDINATOR_KEY = (
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBHenEZAF"
    "kA0j9pn/HOjwggccQO/yla+Q0WHk5APVzXLioi+DxTMz5dpcVLDL9E+s7rtQi+4T4/X25MrUW2qV3PQr"
    "6fB630PaQR3gybePd5YqPRaZLw0vFzEpJtqKHx4o0w=="
)
"""Of a coordinator that signs nothing: its private half was thrown away."""

STUDY = f"""[study]
name = "study"
instrument = "phq9"

[coordinator]
public_key = "{COORDINATOR_KEY}"
"""
