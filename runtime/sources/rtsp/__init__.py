"""An RTSP client for H.264 and H.265: RTSP 1.0, SDP, RTP and RTCP, with the standard library alone.

FFmpeg's client knows the end of a picture by the beginning of the next one, a frame later. RTP's marker tells it at
once.

``vitedge.runtime.sources.video.rtsp`` imports it, and decodes. Start with ``session``, which plays a track and reads
its access units. ``control`` exchanges requests and answers over a ``connection``; ``messages``, ``authentication``,
``sdp``, ``rtp``, ``rtcp`` and ``depacketizers`` read what the server sends; ``access_units`` puts pictures together.
"""
