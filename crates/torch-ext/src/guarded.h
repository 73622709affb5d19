// Exceptions of libtorch as error texts.
#pragma once

#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>

// Static texts are told apart from allocated ones by address.
inline const char out_of_memory[] = "out of memory";

inline char *error_text(const char *text) {
    char *copy = strdup(text);
    return copy ? copy : const_cast<char *>(out_of_memory);
}

// Runs `body`: null, or an error text the caller frees with torch_ext_free_error.
template <typename Body> char *guarded(Body body) {
    try {
        body();
        return nullptr;
    } catch (const c10::Error &error) {
        return error_text(error.what_without_backtrace());
    } catch (const std::exception &error) {
        return error_text(error.what());
    } catch (...) {
        return error_text("unknown C++ exception");
    }
}
