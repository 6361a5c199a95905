// Rill: mixture-of-experts language models in little RAM, for programs in C and whatever calls C.
//
// Memory. The caller gives one block, the arena, and the library works in it: nothing that it
// allocates reaches the caller, nor the other way round. The block must stay where it is, and be
// touched by nobody else, until rill_close has returned; then it is the caller's again. Texts and
// arrays that functions point to lie in it, and hold until the next call with the model unless it is
// said otherwise. Calls need 64 KiB of stack.
//
// Failures. Every call that can fail returns a rill_status; RILL_STATUS_OK is 0. rill_status_text says
// what a status means, rill_error_text what was wrong this time. After a failure everything is as it
// was before unless it is said otherwise. Calls check what they are given: a null pointer, a model that
// was closed, a conversation that was freed, a number out of range give a status. What no library can
// check is a pointer to memory that is not there.
//
// Threads. A model may be used by any thread, by one at a time: a call while another is under way, also
// from within a function of the caller's that the library called, returns RILL_STATUS_BUSY. The
// functions without a model may be called at any time, and rill_stop until rill_close is. Models do not
// know of each other.
// Functions of the caller's run on the thread that made the call, and must neither throw nor jump out.
//
// Versions. `abi` in structures that the caller fills in is RILL_ABI of the header that the caller was
// compiled with; a library of another ABI refuses it. All other members may be 0, which chooses what
// suits most.
//
// This file is made of platform/ffi/src.


#ifndef RILL_H
#define RILL_H

#include <stddef.h>
#include <stdint.h>

// Most conversations that rill_advance takes.
#define RILL_MOST_TOGETHER 64

// Parts of an arena, see rill_plan.
#define RILL_PARTS 10

// Stands for a token that a model does not have.
#define RILL_NO_TOKEN UINT32_MAX

// Most tokens that end an answer.
#define RILL_MOST_STOPS 8

// Version of everything in this header.
#define RILL_ABI 1

// Bytes of a text that says what was wrong.
#define RILL_ERROR_BYTES 252

// What came of a call.
typedef enum rill_status {
  // All went well.
  RILL_STATUS_OK = 0,
  // A pointer is null or not aligned, or a number is out of range.
  RILL_STATUS_ARGUMENT = 1,
  // The structure is of another version of the header.
  RILL_STATUS_ABI = 2,
  // No model is open there.
  RILL_STATUS_MODEL = 3,
  // There is no such conversation: it was freed, or never was.
  RILL_STATUS_CONVERSATION = 4,
  // Another call with the model is under way.
  RILL_STATUS_BUSY = 5,
  // The arena is too small.
  RILL_STATUS_ARENA = 6,
  // The image is damaged, of another version, or none at all.
  RILL_STATUS_IMAGE = 7,
  // The image cannot be read now.
  RILL_STATUS_READ = 8,
  // The conversation would have more tokens than its context.
  RILL_STATUS_CONTEXT = 9,
  // All conversations are in use.
  RILL_STATUS_CONVERSATIONS = 10,
  // Other conversations have all memory for keys and values.
  RILL_STATUS_MEMORY = 11,
  // The text is not UTF-8, or has too long a run that cannot be cut.
  RILL_STATUS_TEXT = 12,
  // The model has no such token.
  RILL_STATUS_TOKEN = 13,
  // There is nothing to continue.
  RILL_STATUS_EMPTY = 14,
  // The image does not say how its model chats.
  RILL_STATUS_NO_CHAT = 15,
  // The model's chat template does not render the conversation.
  RILL_STATUS_TEMPLATE = 16,
  // The model computes no numbers.
  RILL_STATUS_NUMBERS = 17,
  // The mask allows no token.
  RILL_STATUS_FORBIDDEN = 18,
  // rill_stop ended it. What was not computed is still to be computed.
  RILL_STATUS_STOPPED = 19,
  // What was kept is damaged, or of another model.
  RILL_STATUS_SAVED = 20,
  // A function of the caller's failed.
  RILL_STATUS_CALLBACK = 21,
  // This library was built without it.
  RILL_STATUS_UNSUPPORTED = 22,
  // The operating system refuses.
  RILL_STATUS_SYSTEM = 23,
  // A fault of the library itself. The model can only be closed.
  RILL_STATUS_FAULT = 24,
} rill_status;

// Whether an answer goes on.
typedef enum rill_end {
  // It does.
  RILL_END_NONE = 0,
  // The token ends it; it is part of the conversation, and not of the text.
  RILL_END_STOP = 1,
  // The context is full. There is no token.
  RILL_END_FULL = 2,
} rill_end;

// Flags of rill_options, to be joined with `|`.
typedef enum rill_flag {
  // Experts are not read on a guess.
  RILL_FLAG_NO_LOOKAHEAD = 1,
  // Answers are not guessed on. It changes no word of them.
  RILL_FLAG_NO_DRAFT = 2,
  // What conversations begin with is not kept for others that begin alike.
  RILL_FLAG_NO_BEGINNINGS = 4,
} rill_flag;

// How keys and values are kept.
typedef enum rill_kv {
  // 16-bit floats.
  RILL_KV_F16 = 0,
  // 8-bit integers: about half the RAM. It changes logits a little.
  RILL_KV_INT8 = 1,
} rill_kv;

// What a function of the caller's that reads returns.
typedef enum rill_read {
  // All bytes were read.
  RILL_READ_WHOLE = 0,
  // The same read may succeed soon: it is tried again a few times.
  RILL_READ_AGAIN = 1,
} rill_read;

// Who speaks.
typedef enum rill_role {
  // Gives instructions.
  RILL_ROLE_SYSTEM = 0,
  // Asks.
  RILL_ROLE_USER = 1,
  // Answers.
  RILL_ROLE_ASSISTANT = 2,
} rill_role;

// An open model.
typedef struct rill_model rill_model;

// A conversation with a model. 0 is none.
typedef uint64_t rill_conversation;

// A token that was chosen.
typedef struct rill_token {
  // The token.
  uint32_t id;
  // Whether the answer goes on.
  enum rill_end end;
  // The bytes it stands for, without a 0 at the end: often no whole character. None where it ends the
  // answer. They hold until the model is closed.
  const char *text;
  // How many they are.
  size_t len;
} rill_token;

// A message of a conversation.
typedef struct rill_message {
  // Who says it: rill_role.
  uint32_t role;
  // What is said, in UTF-8.
  const char *text;
  // Bytes of it.
  size_t len;
} rill_message;

// How tokens are chosen. rill_get_sampling fills it in.
typedef struct rill_sampling {
  // RILL_ABI.
  uint32_t abi;
  // Keeps this many of the best; 0 keeps all.
  uint32_t top_k;
  // Divides the logits; 0 takes the best token always.
  float temperature;
  // Keeps the best until their probabilities sum to this; 1 keeps all.
  float top_p;
  // Keeps what is at least this fraction as probable as the best; 0 keeps all.
  float min_p;
  // Divides the logits of tokens seen before; 1 is none.
  float repetition_penalty;
  // Taken from the logit of every token that the answer has, -2 to 2; 0 is none.
  float presence_penalty;
  // Taken from the logit of a token for each time that the answer has it, -2 to 2; 0 is none.
  float frequency_penalty;
  // Keeps what is at most so many standard deviations of the logits below the best; 0 keeps all.
  float top_n_sigma;
  // Chooses no token that ends the answer before it has so many.
  uint32_t min_tokens;
  // 1 never chooses a token that ends the answer.
  uint32_t ignore_end;
} rill_sampling;

// A logit that is changed before each choice.
typedef struct rill_bias {
  // The token.
  uint32_t id;
  // Is added to its logit.
  float bias;
} rill_bias;

// Where the caller keeps a conversation.
typedef struct rill_sink {
  // RILL_ABI.
  uint32_t abi;
  // Takes the next `len` bytes; 0 when they are kept, another number otherwise.
  int32_t (*write)(void *context, const void *bytes, size_t len);
  // What `write` is given.
  void *context;
} rill_sink;

// What gives back a conversation that was kept.
typedef struct rill_source {
  // RILL_ABI.
  uint32_t abi;
  // Writes the next `len` bytes to `into`; 0 when all are there, another number otherwise.
  int32_t (*read)(void *context, void *into, size_t len);
  // What `read` is given.
  void *context;
} rill_source;

// One part of some work: call it with the `work` that `run` of rill_cores was given.
typedef void (*rill_part)(void *work, size_t index);

// Cores of the caller's: for boards without an operating system, and programs with threads of their
// own.
typedef struct rill_cores {
  // How many they are, at least 1.
  size_t width;
  // Calls part(work, index) once for every index from 0 to parts - 1, on any core and in any order,
  // and returns when all calls have returned. Parts need 12 KiB of stack.
  void (*run)(void *context, size_t parts, rill_part part, void *work);
  // What `run` is given.
  void *context;
} rill_cores;

// How a model is opened.
typedef struct rill_options {
  // RILL_ABI.
  uint32_t abi;
  // Flags: rill_flag.
  uint32_t flags;
  // Most tokens of a conversation; 0 for 4096, or as many as the model was made for if less.
  uint32_t context;
  // Most tokens that go through the model together; 0 to choose by the arena.
  uint32_t batch;
  // Most conversations at a time; 0 for one.
  uint32_t conversations;
  // Beginnings of conversations that are kept for others; 0 to choose by the arena.
  uint32_t beginnings;
  // How keys and values are kept: rill_kv.
  uint32_t kv;
  // Tokens whose keys and values there is room for, of all conversations together and at least `context`;
  // 0 for as many as all of them can have.
  uint32_t kv_tokens;
  // Threads that compute, that of the caller among them; 0 for as many as there are cores.
  // Without an operating system: see `cores`.
  uint32_t threads;
  // Seed of every conversation's choices.
  uint64_t seed;
  // Cores of the caller's, in the place of threads; null for none. The structure is copied.
  const struct rill_cores *cores;
  // A clock in microseconds that never goes back, for statistics and for how long guesses are;
  // null for the system's, or none where there is no system. No answer depends on it.
  uint64_t (*now)(void *context);
  // What `now` is given.
  void *now_context;
} rill_options;

// How an arena is divided.
typedef struct rill_plan {
  // Bytes of the least arena that works.
  uint64_t least;
  // Bytes of the arena beyond which nothing is gained.
  uint64_t most;
  // Bytes that are used of the arena; 0 when it is too small, as are all that follow.
  uint64_t used;
  // Of them, by rill_part_name.
  uint64_t parts[RILL_PARTS];
  // Bytes of an expert.
  uint64_t page_bytes;
  // Experts of the model.
  uint32_t pages;
  // Experts that fit.
  uint32_t slots;
  // Experts that one token needs.
  uint32_t cycle;
  // Most tokens of a conversation.
  uint32_t context;
  // Most tokens that go through the model together.
  uint32_t batch;
  // Most conversations at a time.
  uint32_t conversations;
  // Beginnings of conversations that are kept for others.
  uint32_t beginnings;
  // Tokens whose keys and values there is room for, of all conversations together.
  uint32_t kv_tokens;
} rill_plan;

// Why a call without a model failed.
typedef struct rill_error {
  // What came of the call.
  enum rill_status status;
  // Why, in UTF-8, with a 0 at the end.
  char text[RILL_ERROR_BYTES];
} rill_error;

// An image that the caller reads.
typedef struct rill_reader {
  // RILL_ABI.
  uint32_t abi;
  // Offsets, lengths and addresses of reads are multiples of this, a power of two up to 4096; 0 for
  // any.
  uint32_t alignment;
  // Bytes of the image.
  uint64_t len;
  // Reads `len` bytes at `offset` to `into`: rill_read, or another number for a device that cannot
  // read. It is called only within calls with the model.
  int32_t (*read)(void *context, uint64_t offset, void *into, size_t len);
  // What `read` is given.
  void *context;
} rill_reader;

// What is known of a model.
typedef struct rill_info {
  // What tells its image from others.
  uint64_t identity;
  // Logits of a token, and bound of all tokens.
  uint32_t vocab;
  // Tokens that have a text; those from here to `vocab` have none.
  uint32_t pieces;
  // Tokens that the model was made for.
  uint32_t max_context;
  // Most tokens of a conversation, as was planned.
  uint32_t context;
  // Most conversations at a time, as was planned.
  uint32_t conversations;
  // Most tokens that go through the model together, as was planned.
  uint32_t batch;
  // Threads or cores that compute.
  uint32_t threads;
  // The token that begins every conversation, or RILL_NO_TOKEN.
  uint32_t begin;
  // Tokens that end an answer.
  uint32_t stops[RILL_MOST_STOPS];
  // How many of them there are.
  uint32_t stop_count;
  // 1 when the model chats, 0 when it only continues text.
  uint32_t chats;
  // What the model is called. Holds until it is closed.
  const char *name;
  // Name of the kernels in use. Holds until the model is closed.
  const char *kernels;
} rill_info;

// Where time went so far.
typedef struct rill_stats {
  // Tokens of prompts that were computed.
  uint64_t prompt_tokens;
  // Microseconds for them.
  uint64_t prompt_time;
  // Tokens of answers.
  uint64_t answer_tokens;
  // Microseconds for them.
  uint64_t answer_time;
  // Microseconds of both that were spent waiting for the image.
  uint64_t waiting;
  // Tokens of prompts that were not computed, because a known beginning has them.
  uint64_t reused;
  // Tokens that were given up for other conversations' memory, and are computed again.
  uint64_t parked_tokens;
  // Tokens that were guessed.
  uint64_t drafted;
  // Of them, those that came true.
  uint64_t accepted;
  // Experts that were wanted and in RAM.
  uint64_t hits;
  // Experts that were wanted and not yet in RAM.
  uint64_t misses;
  // Experts that left RAM.
  uint64_t evictions;
  // Bytes that were read.
  uint64_t bytes_read;
  // Reads that were tried again.
  uint64_t retries;
} rill_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// A library without an operating system calls this when it has found a fault in itself. The program
// defines it, and never returns from it. `text` has `len` bytes and no 0 at the end.
extern void rill_panic(const char *text,
                       size_t len);

// Computes a batch of what was appended, so that a long prompt can be seen to advance. `left` is how many
// tokens are still to be computed.
enum rill_status rill_compute(struct rill_model *model,
                              rill_conversation conversation,
                              size_t *left);

// The logits after the last token, one for each token of the vocabulary; computes what was appended.
enum rill_status rill_logits(struct rill_model *model,
                             rill_conversation conversation,
                             const float **logits,
                             size_t *len);

// Computes what was appended, chooses the next token and appends it.
enum rill_status rill_step(struct rill_model *model,
                           rill_conversation conversation,
                           struct rill_token *token);

// Computes what was appended and chooses the next token, of those that a mask allows; nothing is appended:
// see rill_accept. Token `id` is bit id % 32 of word id / 32 of `mask`, and 1 allows it; words that are
// missing allow nothing. A null `mask` allows every token. Each call uses up a random number. A full context
// is RILL_STATUS_CONTEXT.
enum rill_status rill_sample(struct rill_model *model,
                             rill_conversation conversation,
                             const uint32_t *mask,
                             size_t words,
                             uint32_t *id);

// Appends a token to the answer, as if it had been chosen. Where the context is full nothing is appended,
// and the end of `token` is RILL_END_FULL. `token` may be null.
enum rill_status rill_accept(struct rill_model *model,
                             rill_conversation conversation,
                             uint32_t id,
                             struct rill_token *token);

// Begins a conversation, which is empty and chooses tokens as the image advises.
enum rill_status rill_conversation_new(struct rill_model *model,
                                       rill_conversation *conversation);

// Ends a conversation and gives its memory to others.
enum rill_status rill_conversation_free(struct rill_model *model,
                                        rill_conversation conversation);

// Begins a conversation that is a copy of another, with its settings and the state of its random
// choices. What both have is in memory once, until one of them goes on.
enum rill_status rill_fork(struct rill_model *model,
                           rill_conversation from,
                           rill_conversation *conversation);

// Goes back to the first `len` tokens, of which as many stay computed as can; a longer `len` changes
// nothing. With 0 the conversation is empty. The next logits are those that were there then, bit for bit.
enum rill_status rill_cut(struct rill_model *model,
                          rill_conversation conversation,
                          size_t len);

// The tokens of a conversation, how many they are, and how many of them were computed. Each of the three
// results may be null.
enum rill_status rill_tokens(struct rill_model *model,
                             rill_conversation conversation,
                             const uint32_t **tokens,
                             size_t *len,
                             size_t *computed);

// Appends tokens. They are computed by the next call that wants what comes after them.
enum rill_status rill_append_tokens(struct rill_model *model,
                                    rill_conversation conversation,
                                    const uint32_t *tokens,
                                    size_t len);

// Appends `len` bytes of UTF-8 as they are, after the token that begins every conversation where that is
// missing. Names of control tokens in the text become those tokens.
enum rill_status rill_append_text(struct rill_model *model,
                                  rill_conversation conversation,
                                  const char *text,
                                  size_t len);

// Appends a message, a text of `len` bytes of UTF-8, in ChatML with the model's own tokens: what most
// models of this family were trained with. Nothing in the text becomes a control token. `role` is a
// rill_role. For models with another format see rill_set_messages.
enum rill_status rill_append_message(struct rill_model *model,
                                     rill_conversation conversation,
                                     uint32_t role,
                                     const char *text,
                                     size_t len);

// Begins an answer after messages: the next tokens are the assistant's.
enum rill_status rill_begin_answer(struct rill_model *model, rill_conversation conversation);

// Makes a conversation what these messages are, as the checkpoint's own chat template writes them, and
// begins the answer to them. What it has of them already is not computed again. A library without an
// operating system knows ChatML alone, and says so where a model has another template. When they cannot
// be written, or are too long, the conversation is empty.
enum rill_status rill_set_messages(struct rill_model *model,
                                   rill_conversation conversation,
                                   const struct rill_message *messages,
                                   size_t count);

// Chooses the next tokens as these settings say, from now on.
enum rill_status rill_set_sampling(struct rill_model *model,
                                   rill_conversation conversation,
                                   const struct rill_sampling *sampling,
                                   uint64_t seed);

// The settings that the image advises, for rill_set_sampling.
enum rill_status rill_get_sampling(struct rill_model *model, struct rill_sampling *sampling);

// Adds biases to logits before each choice from now on, in the place of those before; at most 300.
enum rill_status rill_set_biases(struct rill_model *model,
                                 rill_conversation conversation,
                                 const struct rill_bias *biases,
                                 size_t count);

// One batch for those of `count` conversations, in this order, that have something to compute: answers
// side by side, each as if it were alone. `rows` is how many tokens went through the model; 0 when all is
// computed. Then rill_step takes no time but that of choosing. At most RILL_MOST_TOGETHER.
//
// Where there is no memory for the keys and values of all (`kv_tokens`), those come first that are first
// here: the last of them wait, and for them too what was computed may be given up, to be computed again, as
// rill_tokens tells. So take a step of those whose tokens are all computed, and call this again for the
// others; end or cut those that have ended.
enum rill_status rill_advance(struct rill_model *model,
                              const rill_conversation *conversations,
                              size_t count,
                              size_t *rows);

// Writes the tokens of a text of `len` bytes of UTF-8 to `tokens`, where there is room for `room`, and says
// how many they are; none is added. With `control` other than 0 the names of control tokens become those
// tokens. As many tokens as bytes are always enough.
enum rill_status rill_encode(struct rill_model *model,
                             const char *text,
                             size_t len,
                             uint32_t control,
                             uint32_t *tokens,
                             size_t room,
                             size_t *count);

// The bytes that a token stands for, `len` of them without a 0 at the end: often no whole character. Those
// of a control token are its name. They hold until the model is closed.
enum rill_status rill_piece(struct rill_model *model,
                            uint32_t token,
                            const char **bytes,
                            size_t *len);

// Writes a conversation with all that was computed of it, piece by piece. rill_restore takes it back, in
// a model of the same image whose keys and values are kept alike. Settings are not kept; the
// random choices go on from where they were.
enum rill_status rill_save(struct rill_model *model,
                           rill_conversation conversation,
                           const struct rill_sink *sink);

// Takes back what rill_save wrote in the place of a conversation. When it is another model's, nothing
// changes; after a failure that comes later the conversation is empty, also when what was kept is too
// long for it.
enum rill_status rill_restore(struct rill_model *model,
                              rill_conversation conversation,
                              const struct rill_source *source);

// RILL_ABI of the library.
uint32_t rill_abi(void);

// Name of a part of an arena, from 0 to RILL_PARTS - 1; null for another number.
const char *rill_part_name(size_t part);

// Divides an arena of `arena` bytes for the image that begins at byte `offset`, a multiple of 16 KiB, of
// a file. With 0 bytes, only `least` and `most` are wanted. Where the arena is too small these two are
// written all the same. `error` may be null.
enum rill_status rill_plan_file(const char *path,
                                uint64_t offset,
                                const struct rill_options *options,
                                uint64_t arena,
                                struct rill_plan *plan,
                                struct rill_error *error);

// As rill_plan_file, of an image in the address space.
enum rill_status rill_plan_memory(const uint8_t *image,
                                  size_t len,
                                  const struct rill_options *options,
                                  uint64_t arena,
                                  struct rill_plan *plan,
                                  struct rill_error *error);

// As rill_plan_file, of an image that the caller reads.
enum rill_status rill_plan_reader(const struct rill_reader *reader,
                                  const struct rill_options *options,
                                  uint64_t arena,
                                  struct rill_plan *plan,
                                  struct rill_error *error);

// Opens the image that begins at byte `offset`, a multiple of 16 KiB, of a file, in an arena of
// `arena_len` bytes at any address. rill_close ends it. `error` may be null.
enum rill_status rill_open_file(const char *path,
                                uint64_t offset,
                                const struct rill_options *options,
                                uint8_t *arena,
                                size_t arena_len,
                                struct rill_model **model,
                                struct rill_error *error);

// As rill_open_file, of an image in the address space, which must stay there until the model is closed.
enum rill_status rill_open_memory(const uint8_t *image,
                                  size_t len,
                                  const struct rill_options *options,
                                  uint8_t *arena,
                                  size_t arena_len,
                                  struct rill_model **model,
                                  struct rill_error *error);

// As rill_open_file, of an image that the caller reads. The structure is copied.
enum rill_status rill_open_reader(const struct rill_reader *reader,
                                  const struct rill_options *options,
                                  uint8_t *arena,
                                  size_t arena_len,
                                  struct rill_model **model,
                                  struct rill_error *error);

// Closes a model. When this returns anything but RILL_STATUS_BUSY the arena is the caller's again.
enum rill_status rill_close(struct rill_model *model);

// Ends what the model computes in another thread, within part of a layer, or is going to compute next:
// that call returns RILL_STATUS_STOPPED. May be called at any time before rill_close.
enum rill_status rill_stop(const struct rill_model *model);

// What was wrong when a call with the model failed last. Never null.
const char *rill_error_text(const struct rill_model *model);

// What is known of a model.
enum rill_status rill_get_info(const struct rill_model *model, struct rill_info *info);

// Where time went so far.
enum rill_status rill_get_stats(const struct rill_model *model, struct rill_stats *stats);

// What a status means. Of a number that is none, that it is none.
const char *rill_status_text(int32_t status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RILL_H */
