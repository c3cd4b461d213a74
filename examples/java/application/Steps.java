package example;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;

/**
 * Sums 1 to N in N steps, with a pause in each: something to be watched, cancelled, lost and found
 * again on a cluster. Usage: Steps [--steps N] [--pause MILLISECONDS] [--fail MESSAGE]
 */
public final class Steps {
    private Steps() {
    }

    public static void main(String[] args) throws IOException {
        int steps = 10;
        long pause = 500;
        String failure = null;
        for (int i = 0; i + 1 < args.length; i += 2) {
            switch (args[i]) {
                case "--steps" -> steps = Integer.parseInt(args[i + 1]);
                case "--pause" -> pause = Long.parseLong(args[i + 1]);
                case "--fail" -> failure = args[i + 1];
                default -> throw new IllegalArgumentException("unknown option " + args[i]);
            }
        }
        SparkSession spark = SparkSession.builder().appName("steps").getOrCreate();
        JavaSparkContext context = JavaSparkContext.fromSparkContext(spark.sparkContext());
        long millis = pause;
        long sum = 0;
        for (int step = 1; step <= steps; step++) {
            sum += context.parallelize(List.of(step), 1).map(n -> {
                Thread.sleep(millis);
                return n;
            }).reduce(Integer::sum);
        }
        if (failure != null) {
            throw new IllegalStateException(failure);
        }
        spark.stop();

        String json = "{\"steps\":" + steps + ",\"sum\":" + sum + "}";
        System.out.println(json);
        String output = System.getenv("SJE_OUTPUT");
        if (output != null && Files.isDirectory(Path.of(output).getParent())) {
            Files.writeString(Path.of(output), json);
        }
    }
}
