// A chat on the terminal: cc -std=c11 chat.c -lrill_ffi -o chat && ./chat MODEL.rill 1024
// The second argument is how many MiB the model may take. Each line is a question.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rill.h"

static int fail(const char *what, const char *why) {
  fprintf(stderr, "chat: %s: %s\n", what, why);
  return EXIT_FAILURE;
}

// Asks, and prints the answer as it comes.
static rill_status ask(rill_model *model, rill_conversation talk, const char *question) {
  rill_status status =
      rill_append_message(model, talk, RILL_ROLE_USER, question, strlen(question));
  if (status == RILL_STATUS_OK) {
    status = rill_begin_answer(model, talk);
  }
  rill_token token = {0};
  while (status == RILL_STATUS_OK && token.end == RILL_END_NONE) {
    status = rill_step(model, talk, &token);
    if (status == RILL_STATUS_OK) {
      fwrite(token.text, 1, token.len, stdout);
      fflush(stdout);
    }
  }
  putchar('\n');
  return status;
}

static int chat(rill_model *model) {
  rill_conversation talk = 0;
  if (rill_conversation_new(model, &talk) != RILL_STATUS_OK) {
    return fail("no conversation", rill_error_text(model));
  }
  char line[4096];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = '\0';
    rill_status status = ask(model, talk, line);
    if (status == RILL_STATUS_CONTEXT) {
      // Begins anew; rill_cut to a later place would keep an instruction.
      status = rill_cut(model, talk, 0);
      puts("(The conversation was too long; it begins anew.)");
    }
    if (status != RILL_STATUS_OK) {
      return fail("no answer", rill_error_text(model));
    }
  }
  rill_stats stats;
  if (rill_get_stats(model, &stats) == RILL_STATUS_OK) {
    fprintf(stderr, "%llu tokens of prompts, %llu of answers\n",
            (unsigned long long)stats.prompt_tokens, (unsigned long long)stats.answer_tokens);
  }
  return EXIT_SUCCESS;
}

int main(int count, char **arguments) {
  if (count != 3) {
    return fail("usage", "chat MODEL.rill MIB");
  }
  size_t bytes = (size_t)strtoul(arguments[2], NULL, 10) << 20;
  rill_options options = {.abi = RILL_ABI};
  rill_plan plan;
  rill_error error;
  if (rill_plan_file(arguments[1], 0, &options, bytes, &plan, &error) != RILL_STATUS_OK) {
    return fail(arguments[1], error.text);
  }
  // All the memory there will ever be. What the plan does not use need not be there.
  void *arena = malloc(plan.used);
  if (arena == NULL) {
    return fail("memory", "there is not so much");
  }
  rill_model *model = NULL;
  int status = EXIT_FAILURE;
  if (rill_open_file(arguments[1], 0, &options, arena, plan.used, &model, &error) ==
      RILL_STATUS_OK) {
    status = chat(model);
    rill_close(model);
  } else {
    fail(arguments[1], error.text);
  }
  free(arena);
  return status;
}
