// An answer on a board without an operating system: what an application under Zephyr, or none, does.
// `start.S` and `link.ld` bring QEMU's virtual machine here, as the system would; `cargo test -p
// rill-tests --test c_bare -- --ignored` builds and runs all of it.
#include <string.h>

#include "rill.h"

// QEMU puts the image there, in the place of a flash chip.
#define FLASH ((const unsigned char *)0x48000000)
#define FLASH_BYTES (64u << 20)

// All the memory of the model. It need not be zero.
static uint8_t arena[24u << 20] __attribute__((section(".noinit"), aligned(16384)));

static void put(const char *text, size_t len) {
  volatile uint32_t *const uart = (volatile uint32_t *)0x09000000;  // A PL011.
  for (size_t i = 0; i < len; i++) {
    *uart = (unsigned char)text[i];
  }
}

static void say(const char *text) { put(text, strlen(text)); }

// The library has found a fault in itself. It must not go on.
void rill_panic(const char *text, size_t len) {
  put(text, len);
  for (;;) {
  }
}

// A driver would fetch the bytes here, by DMA or over SPI.
static int32_t read_flash(void *context, uint64_t offset, void *into, size_t len) {
  (void)context;
  memcpy(into, FLASH + offset, len);
  return RILL_READ_WHOLE;
}

static uint64_t microseconds(void *context) {
  (void)context;
  uint64_t count, hertz;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(count));
  __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(hertz));
  return count / (hertz / 1000000);
}

static rill_status answer(rill_model *model, const char *question) {
  rill_conversation talk = 0;
  rill_status status = rill_conversation_new(model, &talk);
  if (status == RILL_STATUS_OK) {
    status = rill_append_message(model, talk, RILL_ROLE_USER, question, strlen(question));
  }
  if (status == RILL_STATUS_OK) {
    status = rill_begin_answer(model, talk);
  }
  rill_token token = {0};
  while (status == RILL_STATUS_OK && token.end == RILL_END_NONE) {
    status = rill_step(model, talk, &token);
    if (status == RILL_STATUS_OK) {
      put(token.text, token.len);
    }
  }
  return status;
}

int main(void) {
  rill_reader flash = {.abi = RILL_ABI, .len = FLASH_BYTES, .read = read_flash};
  rill_options options = {.abi = RILL_ABI, .context = 512, .now = microseconds};
  rill_model *model = NULL;
  static rill_error error;
  if (rill_open_reader(&flash, &options, arena, sizeof arena, &model, &error) != RILL_STATUS_OK) {
    say(error.text);
    return 1;
  }
  if (answer(model, "Where is the lift?") != RILL_STATUS_OK) {
    say(rill_error_text(model));
    return 1;
  }
  say("\n");
  return rill_close(model) != RILL_STATUS_OK;
}
