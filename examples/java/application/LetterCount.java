package example;

import example.text.Letters;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;

import org.apache.spark.SparkFiles;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;

/**
 * Counts the words of a text by their first letter. The letter comes from a second jar, so the task
 * names that jar, and the text, under "dependencies". Usage: LetterCount [--min N] NAME-OF-TEXT
 */
public final class LetterCount {
    private LetterCount() {
    }

    public static void main(String[] args) throws IOException {
        long min = 0;
        String text = null;
        for (int i = 0; i < args.length; i++) {
            if (args[i].equals("--min")) {
                min = Long.parseLong(args[++i]);
            } else {
                text = args[i];
            }
        }
        if (text == null) {
            throw new IllegalArgumentException("usage: LetterCount [--min N] NAME-OF-TEXT");
        }
        SparkSession spark = SparkSession.builder().appName("letter count").getOrCreate();
        JavaRDD<String> words = JavaSparkContext.fromSparkContext(spark.sparkContext())
                .textFile("file://" + SparkFiles.get(text), 8)
                .flatMap(line -> Arrays.asList(line.split("[^\\p{L}]+")).iterator())
                .filter(word -> !word.isEmpty());
        Map<String, Long> counts = new TreeMap<>(words.map(Letters::initial).countByValue());
        long least = min;
        counts.values().removeIf(n -> n < least);
        spark.stop();

        String json = counts.entrySet().stream()
                .map(e -> '"' + e.getKey() + "\":" + e.getValue())
                .collect(Collectors.joining(",", "{\"letters\":{", "}}"));
        System.out.println(json);
        String output = System.getenv("SJE_OUTPUT");
        if (output != null) {
            Files.writeString(Path.of(output), json);
        }
    }
}
