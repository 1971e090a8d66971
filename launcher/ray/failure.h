// The text that a user sees when an environment can't be made: the cause, what to do, and on which
// node it was; ten lines at most. A raylet takes no answer over 8 MiB, and passes the text through
// logs and exceptions: it is kept short, and is valid UTF-8 whatever a tool has said.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "isolation/sys/result.h"

namespace rtlaunch::ray {

// "cause\ncure"
std::string failure_text(const Error& error);

// "[Node 10.0.0.1] text": as a user has it; a list of environments has the node elsewhere.
std::string on_node(const std::string& node_ip, const std::string& text);

// The Error of a setup that took longer than `limit`, in Ray's words, and what it was at: "pip:
// download".
Error too_late(std::chrono::seconds limit, const std::string& at);

// At most `lines` lines and `bytes` bytes, valid UTF-8, no control characters but the line break.
std::string trimmed_text(const std::string& text, size_t lines, size_t bytes);

}  // namespace rtlaunch::ray
