package sje;

import java.io.IOException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkContext$;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerApplicationEnd;
import org.apache.spark.scheduler.SparkListenerApplicationStart;
import org.apache.spark.scheduler.SparkListenerJobEnd;
import org.apache.spark.scheduler.SparkListenerJobStart;
import org.apache.spark.scheduler.SparkListenerStageCompleted;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.scheduler.StageInfo;
import scala.Option;
import scala.collection.Iterable;
import scala.collection.Iterator;

/**
 * How far a Spark application is, told from inside of its driver: the status file of
 * pkg/executors/sparkwatch.h, named by the setting spark.sje.status, replaced at most five times a
 * second. The driver's own REST API would tell as much, but its first answer takes one to two
 * seconds of the driver's processor time.
 *
 * Nothing here may hurt the application: an error is kept to itself, the thread is a daemon, and what is
 * remembered is bounded by the jobs that run now. Runs with Spark 3 and 4 (Scala 2.12 and 2.13).
 */
public final class ProgressListener extends SparkListener {
    private static final long PAUSE_MS = 200;

    /** A stage counts for the job that brought it first. */
    private static final class Stage {
        final int tasks;
        int done;
        boolean completed;

        Stage(int tasks) {
            this.tasks = tasks;
        }
    }

    private final Path file;
    private final Map<Integer, Stage> stages = new HashMap<>();
    private final Map<Integer, List<Integer>> jobs = new HashMap<>();
    private final Thread writer = new Thread(this::writeChanges, "sje-progress");
    private String application;
    private String uiUrl;
    private int jobsBegun;
    private int jobsDone;
    private int stagesBegun;
    private int stagesDone;
    private long tasks;
    private long tasksDone;
    private boolean changed;

    public ProgressListener(SparkConf conf) {
        String name = conf.get("spark.sje.status", "");
        file = name.isEmpty() ? null : Paths.get(name);
        writer.setDaemon(true);
        if (file != null) {
            writer.start();
        }
    }

    // ---- events; Spark delivers them one after the other, on a thread of its own ----

    @Override
    public synchronized void onApplicationStart(SparkListenerApplicationStart e) {
        application = e.appId().isDefined() ? e.appId().get() : null;
        change();
    }

    @Override
    public synchronized void onJobStart(SparkListenerJobStart e) {
        List<Integer> own = new ArrayList<>();
        for (StageInfo s : stageInfos(e)) {
            if (s.completionTime().isEmpty() && !stages.containsKey(s.stageId())) {
                stages.put(s.stageId(), new Stage(s.numTasks()));
                own.add(s.stageId());
                stagesBegun++;
                tasks += s.numTasks();
            }
        }
        jobs.put(e.jobId(), own);
        jobsBegun++;
        change();
    }

    /** A task that runs again, because what it made was lost, counts once. */
    @Override
    public synchronized void onTaskEnd(SparkListenerTaskEnd e) {
        Stage s = stages.get(e.stageId());
        if (s != null && s.done < s.tasks && e.taskInfo() != null && e.taskInfo().successful()) {
            s.done++;
            tasksDone++;
            change();
        }
    }

    @Override
    public synchronized void onStageCompleted(SparkListenerStageCompleted e) {
        Stage s = stages.get(e.stageInfo().stageId());
        if (s != null && !s.completed && e.stageInfo().failureReason().isEmpty()) {
            s.completed = true;
            stagesDone++;
            change();
        }
    }

    /** What Spark skipped, because its result was there already, is settled work. */
    @Override
    public synchronized void onJobEnd(SparkListenerJobEnd e) {
        boolean succeeded = "JobSucceeded".equals(String.valueOf(e.jobResult()));
        List<Integer> own = jobs.remove(e.jobId());
        if (own == null) {
            return;
        }
        for (Integer id : own) {
            Stage s = stages.remove(id);
            if (succeeded) {
                tasksDone += s.tasks - s.done;
                stagesDone += s.completed ? 0 : 1;
            }
        }
        jobsDone += succeeded ? 1 : 0;
        change();
    }

    @Override
    public void onApplicationEnd(SparkListenerApplicationEnd e) {
        if (file != null) {
            writer.interrupt();
            write();
        }
    }

    /** Its type is another one in Scala 2.12, so it is not linked to. */
    private static List<StageInfo> stageInfos(SparkListenerJobStart e) {
        List<StageInfo> all = new ArrayList<>();
        try {
            Method get = e.getClass().getMethod("stageInfos");
            Iterator<?> i = ((Iterable<?>) get.invoke(e)).iterator();
            while (i.hasNext()) {
                all.add((StageInfo) i.next());
            }
        } catch (ReflectiveOperationException | RuntimeException x) {
            return all;
        }
        return all;
    }

    // ---- the file ----

    private void change() {
        changed = true;
        notifyAll();
    }

    private void writeChanges() {
        try {
            while (true) {
                synchronized (this) {
                    while (!changed) {
                        wait();
                    }
                }
                write();
                Thread.sleep(PAUSE_MS);
            }
        } catch (InterruptedException e) {
            // the application has ended, and the last was written
        }
    }

    private synchronized void write() {
        changed = false;
        try {
            Path next = file.resolveSibling(file.getFileName() + ".new");
            Files.write(next, describe().getBytes(StandardCharsets.UTF_8));
            Files.move(next, file, StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException | RuntimeException e) {
            // a full disk, or the directory is gone: the application goes on
        }
    }

    private String describe() {
        StringBuilder b = new StringBuilder("{");
        if (uiUrl == null) {
            uiUrl = findUi();
        }
        add(b, "applicationId", application);
        add(b, "uiUrl", uiUrl);
        if (jobsBegun > 0) {
            add(b, "text", "job " + Math.min(jobsDone + 1, jobsBegun) + " of " + jobsBegun + ", stage "
                    + Math.min(stagesDone + 1, stagesBegun) + " of " + stagesBegun + ": " + tasksDone + "/"
                    + tasks + " tasks");
            b.append(b.length() > 1 ? "," : "").append("\"done\":").append(tasksDone);
            b.append(",\"total\":").append(tasks);
        }
        return b.append("}").toString();
    }

    private static void add(StringBuilder b, String name, String value) {
        if (value != null && value.matches("[^\"\\\\\\p{Cntrl}]{1,255}")) {
            b.append(b.length() > 1 ? "," : "");
            b.append('"').append(name).append("\":\"").append(value).append('"');
        }
    }

    /** Known once the context is complete, which is before its first job. */
    private static String findUi() {
        try {
            Option<SparkContext> context = SparkContext$.MODULE$.getActive();
            Option<String> url = context.isDefined() ? context.get().uiWebUrl() : null;
            return url != null && url.isDefined() ? url.get() : null;
        } catch (RuntimeException | LinkageError e) {
            return null;
        }
    }
}
