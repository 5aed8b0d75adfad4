"""Cameras on loopback, each a process of its own, that send numbered frames and say when.

burnt_numbers  writes a number into a picture and reads it back
encoding       encodes numbered pictures into clips
encoded_clip   reads such a clip
send_times     a table in shared memory: when the frame of each number was due
rtsp_server    a program that sends clips by RTSP, with GStreamer and the system's Python
scripted_rtsp  an RTSP server in a thread of the test, which does what the test says
rtp_packets    RTP packets of coded pictures
web_server     a program that sends clips by HTTP, as MJPEG and MPEG-TS, and by UDP, as MPEG-TS
servers        starts, stops and kills these programs
proxy          stands between a camera and its reader, and holds, delays, refuses and resets connections

The programs, and what they import, need the standard library alone, but for GStreamer.
"""
