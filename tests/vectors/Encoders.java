// Prints, a line each, what Java's encoders write of a text: ["name", "part", "text", "result"] as JSON.
// Run by tests/signing/test_encodings.py: java Encoders.java
import java.io.PrintStream;
import java.net.URI;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

public class Encoders {
    static PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    static String json(String text) {
        StringBuilder made = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') made.append('\\').append(c);
            else if (c < 32) made.append(String.format("\\u%04x", (int) c));
            else made.append(c);
        }
        return made.append('"').toString();
    }

    static void say(String name, String part, String text, String wrote) {
        out.println("[" + json(name) + "," + json(part) + "," + json(text) + "," + json(wrote) + "]");
    }

    public static void main(String[] arguments) throws Exception {
        List<String> texts = new ArrayList<>();
        for (char c = 32; c < 127; c++) texts.add(String.valueOf(c));
        for (String text : new String[] {"a b+c", "\u00e9", "\u6f22\u5b57", "\ud83d\ude00", "R&B (1) 'x'", "100% [a] {b}"}) texts.add(text);
        for (String text : texts) {
            say("Java URLEncoder", "query", text, URLEncoder.encode(text, StandardCharsets.UTF_8));
            URI path = new URI("http", "h", "/x" + text + "y", null, null);
            say("Java URI.toString", "path", text, path.toString().substring(10).replaceAll("y$", ""));
            say("Java URI.toASCIIString", "path", text, path.toASCIIString().substring(10).replaceAll("y$", ""));
            URI query = new URI("http", "h", "/", "x" + text + "y", null);
            say("Java URI.toString", "query", text, query.toString().substring(11).replaceAll("y$", ""));
            say("Java URI.toASCIIString", "query", text, query.toASCIIString().substring(11).replaceAll("y$", ""));
        }
    }
}
