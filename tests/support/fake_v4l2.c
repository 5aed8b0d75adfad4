/* A V4L2 camera for a process that is started with LD_PRELOAD, so that FFmpeg's own code for cameras runs without one.

   FAKE_V4L2           path of the device; any file
   FAKE_V4L2_FORMATS   pixel formats that it offers, such as "MJPG,YUYV"
   FAKE_V4L2_JPEG      file that holds a frame of MJPG
   FAKE_V4L2_SCRIPT    comma-separated: busy, nobandwidth, norate, silent, realtime, unplug=N, damaged=N (every Nth frame)

   It has 640x480 and 320x240, and up to 30 frames per second. Each frame of YUYV begins with its number, and has the
   moment at which it was due as its timestamp. A frame that finds no free buffer is lost, as with a driver. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BUFFERS = 4, LARGEST = 640 * 480 * 2 };

static struct {
    int fd, nonblocking, streaming, busy_by;
    uint32_t width, height, format, rate;
    unsigned next;                  /* number of the next frame */
    int64_t start;                  /* ns of the monotonic clock */
    int order[BUFFERS], queued;     /* free buffers, the oldest first */
    struct { int index; unsigned number; int64_t at; } full[BUFFERS];
    int filled;
    uint8_t *memory;
} camera = {.fd = -1};

static const char *script(const char *word) {
    const char *text = getenv("FAKE_V4L2_SCRIPT");
    return text ? strstr(text, word) : NULL;
}

static unsigned scripted(const char *word) {
    const char *found = script(word);
    return found ? (unsigned)atoi(found + strlen(word)) : 0;
}

static int64_t now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int offers(uint32_t format) {
    char name[5] = {format, format >> 8, format >> 16, format >> 24, 0};
    return strstr(getenv("FAKE_V4L2_FORMATS"), name) != NULL;
}

static uint32_t offered(unsigned index) {
    const char *name = getenv("FAKE_V4L2_FORMATS") + 5 * index;
    return 5 * index < strlen(getenv("FAKE_V4L2_FORMATS")) ? v4l2_fourcc(name[0], name[1], name[2], name[3]) : 0;
}

static int open_camera(int flags) {
    camera.nonblocking = flags & O_NONBLOCK;
    if (camera.fd >= 0 && camera.streaming)
        return dup(camera.fd);      /* somebody looks at a camera that is in use */
    camera.fd = memfd_create("camera", 0);
    ftruncate(camera.fd, BUFFERS * LARGEST);
    camera.memory = mmap(NULL, BUFFERS * LARGEST, PROT_READ | PROT_WRITE, MAP_SHARED, camera.fd, 0);
    camera.width = 640, camera.height = 480, camera.rate = 30, camera.format = offered(0), camera.streaming = 0;
    return camera.fd;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (getenv("FAKE_V4L2") && strcmp(path, getenv("FAKE_V4L2")) == 0 && access(path, F_OK) == 0)
        return open_camera(flags);
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open"))(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open(path, flags, mode);
}

static uint32_t frame_bytes(void) {
    return camera.width * camera.height * (camera.format == V4L2_PIX_FMT_YUV420 ? 3 : 4) / 2;
}

static uint32_t fill(int index, unsigned number) {
    uint8_t *place = camera.memory + (size_t)index * LARGEST;
    if (camera.format != V4L2_PIX_FMT_MJPEG) {
        memset(place, 128, frame_bytes());
        memcpy(place, &number, sizeof number);
        return frame_bytes();
    }
    FILE *picture = fopen(getenv("FAKE_V4L2_JPEG"), "rb");
    uint32_t size = fread(place, 1, LARGEST, picture);
    fclose(picture);
    return size;
}

/* Put the frames that are due into free buffers; lose those that find none. */
static void capture(void) {
    while (camera.streaming && !script("silent")) {
        int64_t due = camera.start + camera.next * 1000000000LL / camera.rate;
        if (due > now(CLOCK_MONOTONIC))
            return;
        if (camera.queued) {
            camera.full[camera.filled].index = camera.order[0];
            camera.full[camera.filled].number = camera.next;
            camera.full[camera.filled++].at = due;
            memmove(camera.order, camera.order + 1, sizeof(int) * --camera.queued);
        }
        camera.next++;
    }
}

static int dequeue(struct v4l2_buffer *buffer) {
    capture();
    if (scripted("unplug=") && camera.next > scripted("unplug="))
        return errno = ENODEV, -1;
    while (!camera.filled) {
        if (camera.nonblocking)
            return errno = EAGAIN, -1;
        usleep(1000);
        capture();
    }
    unsigned number = camera.full[0].number;
    int64_t at = camera.full[0].at;
    buffer->index = camera.full[0].index;
    memmove(camera.full, camera.full + 1, sizeof camera.full[0] * --camera.filled);
    if (script("realtime"))
        at += now(CLOCK_REALTIME) - now(CLOCK_MONOTONIC);
    buffer->timestamp.tv_sec = at / 1000000000;
    buffer->timestamp.tv_usec = at % 1000000000 / 1000;
    buffer->flags = scripted("damaged=") && number % scripted("damaged=") == 1 ? V4L2_BUF_FLAG_ERROR : 0;
    buffer->bytesused = fill(buffer->index, number);
    return 0;
}

static int set_format(struct v4l2_pix_format *format, int keep) {
    if (!keep) {
        if (script("busy"))
            return errno = EBUSY, -1;
        camera.width = format->width < 640 ? 320 : 640;
        camera.height = format->width < 640 ? 240 : 480;
        if (offers(format->pixelformat))
            camera.format = format->pixelformat;
    }
    format->width = camera.width, format->height = camera.height, format->pixelformat = camera.format;
    format->field = V4L2_FIELD_NONE;
    return 0;
}

static int set_rate(struct v4l2_captureparm *capture, int keep) {
    if (!keep && script("norate"))
        return errno = EINVAL, -1;
    unsigned asked = capture->timeperframe.numerator ? capture->timeperframe.denominator / capture->timeperframe.numerator : 0;
    if (!keep)
        camera.rate = asked && asked < 30 ? asked : 30;
    capture->capability = V4L2_CAP_TIMEPERFRAME;
    capture->timeperframe.numerator = 1, capture->timeperframe.denominator = camera.rate;
    return 0;
}

static int answer(unsigned long request, void *argument) {
    struct v4l2_buffer *buffer = argument;
    switch (request) {
    case VIDIOC_QUERYCAP:
        ((struct v4l2_capability *)argument)->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    case VIDIOC_G_INPUT:
        *(int *)argument = 0;
        return 0;
    case VIDIOC_ENUMINPUT:
        return 0;
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *described = argument;
        described->pixelformat = offered(described->index);
        return described->pixelformat ? 0 : (errno = EINVAL, -1);
    }
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
        return set_format(&((struct v4l2_format *)argument)->fmt.pix, request == VIDIOC_G_FMT);
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM:
        return set_rate(&((struct v4l2_streamparm *)argument)->parm.capture, request == VIDIOC_G_PARM);
    case VIDIOC_REQBUFS:
        ((struct v4l2_requestbuffers *)argument)->count = BUFFERS;
        camera.queued = camera.filled = 0;
        return 0;
    case VIDIOC_QUERYBUF:
        buffer->length = LARGEST, buffer->m.offset = buffer->index * LARGEST;
        return 0;
    case VIDIOC_QBUF:
        capture();
        camera.order[camera.queued++] = buffer->index;
        return 0;
    case VIDIOC_STREAMON:
        if (script("nobandwidth"))
            return errno = ENOSPC, -1;
        camera.streaming = 1, camera.next = 0, camera.start = now(CLOCK_MONOTONIC);
        return 0;
    case VIDIOC_STREAMOFF:
        camera.streaming = 0;
        return 0;
    case VIDIOC_DQBUF:
        return dequeue(buffer);
    default:
        return errno = ENOTTY, -1;
    }
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (camera.fd >= 0 && (fd == camera.fd || (request & 0xFF00) == 0x5600))
        return answer(request & 0xFFFFFFFF, argument);
    return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, request, argument);
}
