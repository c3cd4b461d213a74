package example.text;

import java.io.Serializable;
import java.util.Locale;

/** The second jar: what it offers is used inside the Spark tasks, on the executors. */
public final class Letters implements Serializable {
    private static final long serialVersionUID = 1L;

    private Letters() {
    }

    /** The first letter of a word in lower case, or '?' where it does not begin with one. */
    public static String initial(String word) {
        char c = word.isEmpty() ? '?' : word.toLowerCase(Locale.ROOT).charAt(0);
        return Character.isLetter(c) ? String.valueOf(c) : "?";
    }
}
